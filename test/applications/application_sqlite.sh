sqlite_does="a workload in each journal mode; writers in WAL mode that are killed"
sqlite_packages="sqlite3"
sqlite_pool="512M 2G"

# Debian's packages have SQLite without its speed test: this is of the same kind.
sqlite_workload() {
  local rows=$1 mode=$2
  cat <<SQL
.bail on
PRAGMA journal_mode=$mode;
PRAGMA mmap_size=$3;
CREATE TABLE one(a INTEGER PRIMARY KEY, b INTEGER, c TEXT);
CREATE TABLE two(a INTEGER, b INTEGER, c TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows) INSERT INTO one SELECT i, i * 7919 % $rows, printf('%.*c', i % 200, 'x') || i FROM n;
COMMIT;
INSERT INTO two SELECT b, a, c FROM one ORDER BY b;
CREATE INDEX one_b ON one(b);
CREATE INDEX two_a ON two(a, c);
UPDATE one SET c = c || 'longer' WHERE a % 5 = 0;
UPDATE two SET b = b + 1 WHERE a BETWEEN $rows / 4 AND $rows / 2;
DELETE FROM one WHERE a % 7 = 0;
SELECT count(*), sum(length(one.c)) FROM one JOIN two ON one.b = two.a;
ALTER TABLE two ADD COLUMN d DEFAULT 5;
INSERT INTO one SELECT a + $rows, b, c FROM one;
DROP INDEX one_b;
VACUUM;
PRAGMA integrity_check;
SQL
}

application_sqlite() {
  local rows=$(choose 3000 300000) kills=$(choose 3 60) mode
  for mode in delete truncate persist wal; do
    local begin=$(date +%s%N)
    sqlite_workload "$rows" $mode 0 | sqlite3 $mode.db | tee $mode.out
    [[ $(tail -n 1 $mode.out) == ok ]]
    figure "$mode $((($(date +%s%N) - begin) / 1000000)) ms"
  done
  sqlite_workload "$rows" wal 268435456 | sqlite3 mapped.db >mapped.out
  cmp <(sed 1,2d wal.out) <(sed 1,2d mapped.out) # the same answers
  # Each commit is heard of before the next one.
  sqlite3 small.db 'CREATE TABLE t(a)'
  local begin=$(date +%s%N) commits=$(choose 200 5000)
  awk -v n="$commits" 'BEGIN { for (i = 0; i < n; ++i) print "INSERT INTO t VALUES(" i ");" }' | sqlite3 small.db
  [[ $(sqlite3 small.db 'SELECT count(*) FROM t') == "$commits" ]]
  figure "$((commits * 1000000000 / ($(date +%s%N) - begin))) commits/s"

  # A writer says each transaction that it has done; it is killed at any moment, and nothing that it said may be missing.
  sqlite3 killed.db 'PRAGMA journal_mode=WAL; CREATE TABLE account(n INTEGER PRIMARY KEY, amount INTEGER); CREATE TABLE entry(n INTEGER PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER, pad TEXT);
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99) INSERT INTO account SELECT i, 1000 FROM n;'
  local round first=0 said
  for ((round = 0; round < kills; ++round)); do
    awk -v first="$first" -v seed="$round" 'BEGIN {
      srand(seed)
      print ".bail on"; print "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=50;"
      for (n = first;; ++n) {
        a = int(rand() * 100); b = int(rand() * 100); amount = int(rand() * 50)
        print "BEGIN IMMEDIATE;"
        print "UPDATE account SET amount = amount - " amount " WHERE n = " a ";"
        print "UPDATE account SET amount = amount + " amount " WHERE n = " b ";"
        print "INSERT INTO entry VALUES(" n ", " a ", " b ", " amount ", hex(zeroblob(" int(rand() * 2000) ")));"
        print "COMMIT;"
        print "SELECT '\''done " n "'\'';"
      }
    }' 2>/dev/null | stdbuf -oL sqlite3 killed.db >said 2>/dev/null &
    local writer=$!
    sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
    kill -9 $writer
    wait $writer || true
    said=$(sed -n 's/^done //p' said | tail -n 1)
    [[ $(sqlite3 killed.db 'PRAGMA integrity_check') == ok ]]
    [[ $(sqlite3 killed.db 'SELECT sum(amount) FROM account') == 100000 ]]
    first=$(sqlite3 killed.db 'SELECT coalesce(max(n), -1) + 1 FROM entry')
    [[ $(sqlite3 killed.db 'SELECT count(*) FROM entry') == "$first" ]]
    [[ -z $said ]] || ((said < first))
  done
  ((first > 0))
  figure "$kills kills, $first transactions kept"
}
