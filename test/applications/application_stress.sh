stress_does="stress-ng's stressors of the class filesystem, each 10 s with --verify"
stress_packages="stress-ng"
stress_pool="1G 3G"

# Those that do not come near the directory that they are given: they would tell nothing, and some mount or write elsewhere.
stress_elsewhere=(binderfs bind-mount procfs ramfs sysfs)

application_stress() {
  local seconds=$(choose 1 10) status=0 only
  local stressors
  if [[ $quick ]]; then
    stressors=(copy-file dir fallocate filename fpunch hdd rename xattr)
  else
    mapfile -t stressors < <(stress-ng --class 'filesystem?' | sed 's/^class.*: //' | tr ' ' '\n' | grep .)
  fi
  local chosen=() name
  for name in "${stressors[@]}"; do [[ " ${stress_elsewhere[*]} " == *" $name "* ]] || chosen+=("$name"); done
  # One after the other, each in a process of its own: a stressor that ends badly does not take the others along.
  local ok=0 skipped=() failed=()
  for name in "${chosen[@]}"; do
    local code=0
    timeout -k 10 $((seconds * 6 + 60)) stress-ng "--$name" 2 --timeout "$seconds" --verify --temp-path . --metrics-brief --log-file "$work/aside/$name.log" >/dev/null 2>&1 || code=$?
    echo "=== $name: $code"
    cat "$work/aside/$name.log"
    case $code in
      0) if grep -q 'skip' "$work/aside/$name.log"; then skipped+=("$name"); else ok=$((ok + 1)); fi ;;
      3 | 4) skipped+=("$name") ;; # without resources; not implemented
      *) failed+=("$name") ;;
    esac
  done
  figure "$ok stressors of $seconds s"
  ((${#skipped[@]} == 0)) || figure "not possible here: ${skipped[*]}"
  ((${#failed[@]} == 0)) || { figure "failed: ${failed[*]}"; return 1; }
}
