#!/usr/bin/env bash
# The manual pages are well-formed, and say something about every command and option that --help knows.
set -uo pipefail
: "${DAXCOW_BIN_DIR:?where the built programs are}" "${DAXCOW_SOURCE_DIR:?}"
command -v groff >/dev/null || { echo "SKIPPED: groff is missing"; exit 77; }
cd "$DAXCOW_SOURCE_DIR/docs/man" || exit 1
failures=0
fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

text_of() { LC_ALL=C groff -mdoc -Tascii -P-cbou -rLL=200n "$1" 2>/dev/null; }
options_in() { grep -oE -- '(^| )--?[a-zA-Z][a-z-]*' <<<"$1" | tr -d ' ' | sort -u; }
# mentions PAGE TEXT WORD...: each word stands in the text by itself.
mentions() {
  local page=$1 text=$2 word
  shift 2
  for word; do
    grep -qE -- "(^|[^a-zA-Z0-9_-])${word//./\\.}([^a-zA-Z0-9_-]|\$)" <<<"$text" || fail "$page does not mention $word"
  done
}

for page in *.[58]; do
  warnings=$(groff -mdoc -ww -Tutf8 -z "$page" 2>&1)
  [[ -z $warnings ]] || fail "$page: $warnings"
  if command -v mandoc >/dev/null; then
    # Pages that are not installed, and the date, are no matter.
    warnings=$(mandoc -T lint -W warning "$page" | grep -v "STYLE\|referenced manual not found")
    [[ -z $warnings ]] || fail "$page: $warnings"
  fi
  grep -q "^.Nm ${page%.*}\$" "$page" || fail "$page is about something else"
done

for program in mkfs.daxcow fsck.daxcow mount.daxcow; do
  help=$("$DAXCOW_BIN_DIR/$program" --help | sed '1,/^Options/d;/^Mount options/,$d')
  mapfile -t options < <(options_in "$help")
  ((${#options[@]} > 5)) || fail "$program --help has no options"
  mentions "$program.8" "$(text_of "$program.8")" "${options[@]}"
done

# Mount options begin a line, or are a list.
mapfile -t options < <("$DAXCOW_BIN_DIR/mount.daxcow" --help | sed '1,/^Mount options/d;/^In fstab/,$d' |
  sed -nE 's/^  ([a-z_]+(, [a-z_]+)*).*/\1/p' | tr -d ' ' | tr ',' '\n')
((${#options[@]} > 15)) || fail "mount.daxcow --help has no mount options"
mentions daxcow.5 "$(text_of daxcow.5)" "${options[@]}"

# Commands of daxcow: a subsection each, with its options.
page=$(text_of daxcow.8)
commands=0
while read -r command; do
  commands=$((commands + 1))
  section=$(awk -v command="$command" '
    /^(   )?[^ ]/ { inside = index($0, "   " command " ") == 1 } inside' <<<"$page")
  [[ -n $section ]] || fail "daxcow.8 has no section about $command"
  # Of every command: said once for all.
  mapfile -t options < <(options_in "$("$DAXCOW_BIN_DIR/daxcow" $command --help | sed '1,/^Options/d')" |
    grep -vxE -- '-h|--help|--version')
  mentions "daxcow.8 ($command)" "$section" "${options[@]}"
done < <("$DAXCOW_BIN_DIR/daxcow" --help | sed -nE 's/^  ([a-z-]+( [a-z]+)?) [A-Z].*/\1/p'; echo settle)
((commands > 10)) || fail "daxcow --help has no commands"

((failures == 0)) && echo "all as it should be"
exit $((failures != 0))
