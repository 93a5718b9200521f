# The table that the runs print, a line as soon as it is known. To be sourced.
#
#   table_head WHAT                       the head
#   figure TEXT                           adds a figure to the line that is to come
#   table_row NAME STATUS TIME FIGURES    a line; STATUS is ok, skipped or FAILED
#   table_end                             ends the program: 1 if anything failed, 77 if everything was skipped

table_failed=0 table_done=0
table_head() { printf '%-14s %-8s %8s  %s\n' "$1" result time figures; }
figure() { printf '%s%s' "$([[ -s $work/figures ]] && echo '; ')" "$*" >>"$work/figures"; }
table_row() {
  printf '%-14s %-8s %8s  %s\n' "$@"
  [[ $2 == skipped ]] || table_done=$((table_done + 1))
  [[ $2 != FAILED ]] || table_failed=$((table_failed + 1))
}
table_end() {
  if ((table_failed)); then
    echo "$table_failed failed"
    exit 1
  fi
  ((table_done)) || exit 77
  exit 0
}
