#!/usr/bin/env bash
# The tables of docs/results.md: coarse against final on held-out two-object prompts, judged by the oracle, for the
# preset's settings and for each change to one of them. Usage: benchmarks/fine_stage.sh [DIR] [N]
set -euo pipefail
export REALIGN_PRESET=tiny
dir=${1:-runs/fine_stage} n=${2:-520}
mkdir -p "$dir"
realign prompts shapes -n "$n" --out "$dir/prompts.jsonl" -q
realign generate --prompts "$dir/prompts.jsonl" --out "$dir/coarse" -q > /dev/null
realign tag --in "$dir/coarse" -q | realign score -q | realign segment --out "$dir/segmented" -q > /dev/null

measure() { # NAME INPUT [OPTION ...]
    realign refine --set refine.method=modulation --in "$2" --out "$dir/$1" -q "${@:3}" > /dev/null
    echo "== $1 ${*:3}"
    realign eval --in "$dir/$1" --baseline "$dir/coarse" --metrics oracle --out "$dir/$1-eval" -q
}
all=$dir/segmented first=$dir/segmented/first.jsonl
measure final "$all" --keep final
measure best "$all" --keep best

head -n 260 "$all/metadata.jsonl" > "$first"
measure as-preset "$first"

change() { # NAME OPTION ...: against the coarse images, and against the preset's own final ones
    measure "$1" "$first" "${@:2}"
    realign eval --in "$dir/$1" --baseline "$dir/as-preset" --metrics oracle -q
}
change no-splice --set modulation.splice_phrases=false
change no-self --set modulation.self_weight=0.0
change no-clamp --set modulation.clamp_lambda=false
change no-score --set modulation.use_likelihood=false
change phrase-tokens --set modulation.only_phrase_tokens=true
change double --set modulation.cross_weight=2.0 --set modulation.self_weight=0.6
