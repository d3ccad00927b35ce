#!/usr/bin/env bash
# The tables of docs/results.md: coarse against final on held-out two-object prompts, judged by the oracle, for the
# preset's settings and for each change to one of them. Usage: benchmarks/fine_stage.sh [DIR] [N]
set -euo pipefail
dir=${1:-runs/fine_stage} n=${2:-520}
mkdir -p "$dir"
python -m realign_cli.tinyworld prompts -n "$n" > "$dir/prompts.txt"
realign generate --prompts "$dir/prompts.txt" --out "$dir/coarse" -q > /dev/null
realign tag --in "$dir/coarse" -q | realign score -q | realign segment --out "$dir/segmented" -q > /dev/null

measure() { # NAME [OPTION ...]
    realign refine --in "$dir/segmented" --out "$dir/$1" -q "${@:2}" > /dev/null
    echo "== $*"
    realign eval --in "$dir/$1" --baseline "$dir/coarse" --metrics oracle --out "$dir/$1-eval" -q
}
measure final --keep final
measure best --keep best
measure no-splice --set refine.splice=false
measure no-self --set refine.self_=0.0
measure no-clamp --set refine.clamp=false
measure no-score --set refine.score=false
measure phrase-tokens-only --set refine.only_phrase_tokens=true
measure published-strength --set refine.cross=1.0 --set refine.self_=0.3
measure strong --set refine.cross=2.0 --set refine.self_=0.6
measure all-steps --set refine.share=1.0
