#!/usr/bin/env bash
# The tables of the coarse stage in docs/results.md: trains the embedded generator by each reward, estimator and seed,
# and judges what it draws of held-out two-object prompts, with and without the fine stage. An interrupted run goes on
# with the same command. Usage: benchmarks/coarse_stage.sh [DIR] [N] [SEEDS]
set -euo pipefail
export REALIGN_PRESET=tiny
dir=${1:-runs/coarse_stage} n=${2:-520} seeds=${3:-"1 2"}
metrics=fid,clip,negclip,blip,oracle
mkdir -p "$dir"
realign prompts shapes -n "$n" --out "$dir/prompts.jsonl" -q
[ -e "$dir/real" ] || python -m realign_cli.tinyworld render -n "$n" --out "$dir/real"

judge() { # NAME: against the base model's images
    echo "== $1"
    realign eval --in "$dir/$1" --baseline "$dir/base" --reference "$dir/real" --metrics $metrics --out "$dir/$1-eval" -q
}
images() { # NAME [OPTION ...]
    realign generate --prompts "$dir/prompts.jsonl" --out "$dir/$1" -q "${@:2}" > /dev/null
}
caption() { # NAME: what Eq. 4 makes of its images
    realign caption-reward --in "$dir/$1" --out "$dir/$1-captioned" -q > /dev/null
}
coarse() { # NAME SEED [OPTION ...]
    realign train --data shapes --seed "$2" --out "$dir/models/$1-$2" -q "${@:3}"
    images "$1-$2" --model "$dir/models/$1-$2"
    judge "$1-$2"
}
along() { # NAME SEED STEPS [OPTION ...]: the same model after fewer steps
    if [ ! -e "$dir/$1-$2-at-$3/metadata.jsonl" ]; then
        realign train --data shapes --seed "$2" --out "$dir/models/$1-$2" -q "${@:4}" --max-train-steps "$3"
        images "$1-$2-at-$3" --model "$dir/models/$1-$2"
    fi
    caption "$1-$2-at-$3"
    judge "$1-$2-at-$3"
}
fine() { # NAME [OPTION ...]
    realign refine --set refine.method=modulation --in "$dir/$1" --out "$dir/$1-fine" --keep best -q "${@:2}" > /dev/null
    judge "$1-fine"
}
# The same time for the estimators that send a gradient through captioner and autoencoder, which cost more per step.
through_pixels=(--rank 8 --learning-rate 5e-4 --terms-per-rollout 2 --max-train-steps 80)

images base
caption base
judge base
fine base
along caption 1 150
along caption 1 300
along caption 1 450
along refl-caption 1 40 --estimator reinforce "${through_pixels[@]}"
for steps in 50 100; do
    along alone 1 $steps --estimator nft # from prompts alone: no image of the data is read
done
for seed in $seeds; do
    coarse caption "$seed"
    fine "caption-$seed" --model "$dir/models/caption-$seed"
    coarse alone "$seed" --estimator nft
    coarse unweighted "$seed" --set train.temperature=1e9 # every example alike: what more training does by itself
    coarse clip "$seed" --reward clip
    coarse blip "$seed" --reward blip
    coarse refl-caption "$seed" --estimator reinforce "${through_pixels[@]}"
    coarse refl-likelihood "$seed" --estimator likelihood "${through_pixels[@]}"
done
caption caption-1
caption alone-1
caption refl-caption-1
python "$(dirname "$0")/coarse_curve.py" "$dir" caption-1 alone-1 refl-caption-1
