#!/usr/bin/env bash
# Runs every test, and those that fail once more, alone: what a busy machine makes late passes then, a fault fails again.
# Both are told at the end, with their panics.
set -uo pipefail
cargo=${CARGO:-cargo}
log=$(mktemp) && trap 'rm -f "$log"' EXIT
# If more than this fail, it is not for want of time.
most_again=8
# A place and a message are enough, and what matters is not lost among frames.
export RUST_BACKTRACE=0

# Runs the tests with the arguments given, and puts the names of those that failed into `failed`.
run() {
	"$cargo" test --no-fail-fast "$@" 2>&1 | tee "$log"
	local status=$?
	mapfile -t failed < <(awk '
		$0 == "failures:" { listed = ""; inside = 1; next }
		/^test result:/ { printf "%s", listed; listed = ""; inside = 0 }
		inside && /^    [a-z_0-9:]+$/ { listed = listed $1 "\n" }
	' "$log")
	return $status
}

panics() {
	echo "--- $1 ---"
	grep --text -A 12 'panicked at' "$log" | cut -c 1-400 | head -n 150
	printf 'failed: %s\n' "${failed[@]}"
}

run "$@" && exit
panics 'the first run' > "$log.first"
trap 'cat "$log.first"; rm -f "$log" "$log.first"' EXIT
# Without names something else is wrong: a test program that does not build, or dies.
(( ${#failed[@]} > 0 && ${#failed[@]} <= most_again )) || exit 1
echo "running alone what failed: ${failed[*]}"
run -- --exact --test-threads 1 "${failed[@]}"
status=$?
(( status == 0 )) && echo 'passed alone, failed beside the others:' || panics 'the second run'
exit $status
