# Runs the scenarios that the kernel's command line names (backing=ext4 scenarios=shared,single), and reports a line for each
# thing that was looked at: "@check scenario|what|expected|seen".

# Reports go to a line of their own: what the kernel says on the console can garble what others write there.
exec {reports}>/dev/ttyS1
report() {
  echo "$1" >&"$reports"
  echo "$1"
}
. /pool.sh
. /scenarios.sh

for word in $(cat /proc/cmdline); do
  case $word in
    backing=* | scenarios=*) declare "$word" ;;
  esac
done

pool_create || { report "@check setup|pool|made|failed"; exit 1; }
for scenario in ${scenarios//,/ }; do
  started=$SECONDS
  echo "--- $scenario"
  "scenario_$scenario"
  scenario_end
  report "@time $scenario|$((SECONDS - started))"
done
pool_destroy
echo "--- kernel"
dmesg | grep -iE 'BUG|WARNING|Oops|mce|memory.failure|hardware error|daxcow|nfit' | tail -n 40
report "@end"
