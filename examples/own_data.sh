#!/usr/bin/env bash
# From raw files to recommendations that people can look at: MovieLens-100K (ratings with times, film titles, genres).
#
#   examples/own_data.sh [FOLDER]      everything is written below FOLDER (default: runs/own_data)
#
# Needs extras: .venv/bin/pip install '.[encode,export,faiss,report]', then PYTHON=.venv/bin/python examples/own_data.sh
# A finished step is not done again; delete FOLDER to start anew.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
folder=${1:-runs/own_data}
raw=$folder/raw
run=$folder/movielens

# 1. The raw data: RecBole's wheel carries MovieLens-100K (Harper & Konstan, ACM TiiS 2015) as plain text.
if [ ! -f "$raw/ml-100k.item" ]; then
  "$python" -m pip download --quiet --no-deps --dest "$raw" recbole==1.2.1
  "$python" -m zipfile --extract "$raw"/recbole-1.2.1-*.whl "$raw/wheel"
  mv "$raw"/wheel/recbole/dataset_example/ml-100k/ml-100k.{inter,item} "$raw"
  rm -r "$raw/wheel"
fi

# 2. Ratings of 4 and 5 count as interactions; a user's last tenth is test, the tenth before it validation. Titles and
#    genres become two modalities, by the text encoder that the field uses.
if [ ! -d "$folder/data" ]; then
  "$python" -m rearm_jax.data.prepare --interactions "$raw/ml-100k.inter" --items "$raw/ml-100k.item" \
    --text text=movie_title --text genres=class --name_column movie_title,release_year \
    --min_rating 4 --k_core 5 --split time --out "$folder/data"
fi

# 3. Train, and evaluate the best checkpoint again.
"$python" -m rearm_jax.main --config configs/movielens.py --config.data.root="$folder/data" --workdir "$run"
"$python" -m rearm_jax.main --mode evaluate --workdir "$run" | tee "$folder/evaluated.json"

# 4. Ten films for each of three people, after a look at what they liked.
users=1,13,100
"$python" -m rearm_jax.main --mode recommend --workdir "$run" --users "$users" --k 10 --out "$folder/lists.jsonl"
"$python" examples/show_lists.py "$folder/data" "$folder/lists.jsonl"

# 5. Vectors for an index, and the report.
if [ ! -d "$run/export" ]; then
  "$python" -m rearm_jax.main --mode export --workdir "$run"
fi
"$python" -m rearm_jax.main --mode visualize --workdir "$run"
echo "look at $run/report.html; vectors and index: $run/export"
