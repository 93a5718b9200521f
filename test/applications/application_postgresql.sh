postgresql_does="initdb, pgbench, crashes in the middle of it, recovery, and a check of all sums and pages"
postgresql_packages="postgresql-15"
postgresql_pool="1G 3G"

application_postgresql() {
  local scale=$(choose 1 30) seconds=$(choose 1 30) crashes=$(choose 1 4)
  local data=$PWD/data sockets=$work/aside log=$work/aside/server.log bin
  bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
  as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups --reset-env env "PATH=$bin:$PATH" "PGHOST=$sockets" "$@"; }
  chown postgres . "$sockets"
  as_postgres initdb -D "$data" --data-checksums --auth=trust --no-instructions
  cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$sockets'
shared_buffers = 64MB
max_wal_size = 256MB
checkpoint_timeout = 30s
dynamic_shared_memory_type = mmap
CONF
  start() { as_postgres pg_ctl -D "$data" -l "$log" -w -t 120 start; }
  # The sums of all accounts, tellers, branches and of the history are equal at any time.
  sums_agree() {
    [[ $(as_postgres psql -Atc 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
      AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)
      AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)' postgres) == t ]]
  }
  start
  trap 'kill -9 $(head -n 1 "$data/postmaster.pid") 2>/dev/null || true' EXIT # nobody else stops it after a failure
  as_postgres pgbench -q -i -s "$scale" postgres
  as_postgres pgbench -c 4 -j 2 -T "$seconds" postgres | tee bench.out
  figure "$(sed -n 's/^tps = \([0-9]*\).*/\1 transactions\/s/p' bench.out)"
  sums_agree

  local crash postmaster
  for ((crash = 0; crash < crashes; ++crash)); do
    # Without -n it would empty the history first.
    as_postgres pgbench -n -c 4 -j 2 -T 60 postgres >/dev/null 2>&1 &
    local bench=$!
    sleep "$((1 + RANDOM % $(choose 1 4))).$((RANDOM % 10))"
    postmaster=$(head -n 1 "$data/postmaster.pid")
    kill -9 "$postmaster"
    wait $bench || true
    # The others of the server notice, and end.
    while pgrep -g "$postmaster" >/dev/null || pgrep -P "$postmaster" >/dev/null || fuser -s "$data/PG_VERSION" 2>/dev/null; do sleep 0.1; done
    sleep 0.5
    start
    grep -q "automatic recovery in progress" "$log"
    sums_agree
  done
  as_postgres psql -Atc 'CREATE EXTENSION amcheck' postgres
  as_postgres pg_amcheck --heapallindexed postgres
  as_postgres vacuumdb -q --full --analyze postgres
  sums_agree
  as_postgres pg_ctl -D "$data" -w -m fast stop
  as_postgres pg_checksums --check -D "$data"
  figure "$crashes crashes recovered, all sums and page checksums right"
}
