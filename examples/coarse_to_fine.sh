#!/usr/bin/env bash
# The main job through pipes: prompts in; coarse and final images and a measured verdict out. A run that was killed
# continues with the same command. Usage: examples/coarse_to_fine.sh PROMPTS.txt [DIR]
set -euo pipefail
export REALIGN_PRESET=${REALIGN_PRESET:-tiny} # the embedded models, if you say nothing else
prompts=$1 dir=${2:-coarse-to-fine}
realign generate --prompts "$prompts" --out "$dir/coarse" |
    realign tag | realign score | realign segment | realign refine --keep best --out "$dir/final" > /dev/null
realign eval --in "$dir/final" --baseline "$dir/coarse" --out "$dir/eval"
