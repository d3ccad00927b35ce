#!/usr/bin/env bash
# Tables of the coarse stage in docs/results.md: trains the embedded generator for each reward and seed, and judges each
# on held-out two-object prompts, with and without the fine stage. Usage: benchmarks/coarse_stage.sh [DIR] [N] [STEPS]
# A run that was interrupted goes on with the same command.
set -euo pipefail
dir=${1:-runs/coarse_stage} n=${2:-520} steps=${3:-}
metrics=fid,clip,negclip,blip,oracle
mkdir -p "$dir"
realign prompts shapes -n "$n" > "$dir/prompts.jsonl"
python -m realign_cli.tinyworld render -n "$n" --out "$dir/real"

judge() { # NAME: against the base model's images
    realign eval --in "$dir/$1" --baseline "$dir/base" --reference "$dir/real" --metrics $metrics --out "$dir/$1-eval" -q
}
images() { # NAME [OPTION ...]: what the model NAME draws, before and after the fine stage
    realign generate --prompts "$dir/prompts.jsonl" --out "$dir/$1" -q "${@:2}" > /dev/null
}
coarse() { # NAME SEED [OPTION ...]
    realign train --data shapes --seed "$2" --out "$dir/models/$1-$2" ${steps:+--max-train-steps $steps} -q "${@:3}"
    images "$1-$2" --model "$dir/models/$1-$2"
    echo "== $1, seed $2"
    judge "$1-$2"
}
fine() { # NAME [OPTION ...]
    realign refine --in "$dir/$1" --out "$dir/$1-fine" --keep best -q "${@:2}" > /dev/null
    echo "== $1, then the fine stage"
    judge "$1-fine"
}

images base
fine base
for seed in 1 2; do
    coarse reinforce $seed --estimator reinforce
    fine reinforce-$seed --model "$dir/models/reinforce-$seed"
    coarse likelihood $seed --estimator likelihood
    coarse weighted $seed --estimator weighted
    coarse clip $seed --reward clip
    coarse blip $seed --reward blip
done
