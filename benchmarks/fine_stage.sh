#!/usr/bin/env bash
# The tables of docs/results.md: coarse against final on held-out two-object prompts, judged by the oracle, for the
# preset's settings and for each change to one of them. Usage: benchmarks/fine_stage.sh [DIR] [N]
set -euo pipefail
dir=${1:-runs/fine_stage} n=${2:-520}
mkdir -p "$dir"
realign prompts shapes -n "$n" --out "$dir/prompts.jsonl" -q
realign generate --prompts "$dir/prompts.jsonl" --out "$dir/coarse" -q > /dev/null
realign tag --in "$dir/coarse" -q | realign score -q | realign segment --out "$dir/segmented" -q > /dev/null

measure() { # NAME INPUT [OPTION ...]
    realign refine --in "$2" --out "$dir/$1" -q "${@:3}" > /dev/null
    echo "== $1 ${*:3}"
    realign eval --in "$dir/$1" --baseline "$dir/coarse" --metrics oracle --out "$dir/$1-eval" -q
}
all=$dir/segmented first=$dir/segmented/first.jsonl
measure final "$all" --keep final
measure best "$all" --keep best

head -n 260 "$all/metadata.jsonl" > "$first"
measure as-preset "$first"
measure no-splice "$first" --set refine.splice=false
measure no-self "$first" --set refine.self_=0.0
measure no-clamp "$first" --set refine.clamp=false
measure no-score "$first" --set refine.score=false
measure phrase-tokens "$first" --set refine.only_phrase_tokens=true
measure double "$first" --set refine.cross=2.0 --set refine.self_=0.6
