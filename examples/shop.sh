#!/usr/bin/env bash
# Every night in a shop: from messy orders and products to lists that people can use tomorrow, and a week later again.
#
#   examples/shop.sh OUT      everything is written below OUT, which must not be there yet
#
# Needs .venv/bin/pip install '.[export]', then PYTHON=.venv/bin/python examples/shop.sh OUT. docs/every-night.md explains
# each step, and has what a nightly job needs beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${1:?name the folder to make: examples/shop.sh OUT}
[ ! -e "$out" ] || { echo "$out is there already: name another folder, or remove it"; exit 1; }
raw=$out/raw
rearm=("$python" -m rearm_jax.main)
columns=(--user_column customer --item_column sku)

prepare() { # FOLDER ORDERS.csv ...: what is bought counts once, the newest orders are validation and test; all products
  local folder=$1
  shift
  "$python" -m rearm_jax.data.prepare --interactions "$@" "${columns[@]}" --time_column ordered_at \
    --rating_column quantity --min_rating 1 --bad_rows skip --items "$raw/products.csv" --item_id_column sku \
    --name_column title,brand --features text="$raw/products.parquet" --catalogue all --split global-time \
    --out "$folder"
}

train() { # DATA RUN SETTING ...
  local data=$1 run=$2
  shift 2
  "${rearm[@]}" --config configs/default.py --config.data.root="$data" --config.data.modalities=text \
    --config.model.name=lightgcn --config.batch_size=512 --config.num_epochs=60 --config.patience=5 --config.log.tensorboard=False \
    --workdir "$run" "$@"
}

lists() { # RUN LISTS.parquet FLAG ...: of what is in stock, two of a brand at most, 2 of 20 places for fresh products
  local run=$1 file=$2
  shift 2
  "${rearm[@]}" --mode recommend --workdir "$run" --k 20 --allow "$raw/stock.csv" --max_per brand=2 \
    --items "$raw/products.csv" --item_id_column sku --fresh_share 0.1 --format parquet --out "$file" "$@"
}

check() { # LISTS.parquet ORDERS.csv ...: that the lists keep the rules, and hold nothing that was bought
  local file=$1
  shift
  "$python" examples/check_lists.py "$file" "$@"
  "$python" examples/check_rules.py "$file" "$raw/stock.csv" "$raw/products.csv" "$@"
}

# The shop's exports.
"$python" examples/shop_data.py "$raw"

# 1. A few settings, each on the older orders; the newer ones say which is best.
prepare "$out/data1" "$raw/orders.csv"
for rate in 3e-3 1e-2; do
  train "$out/data1" "$out/week1-$rate" --config.learning_rate="$rate"
done
best=$("$python" examples/best_run.py recall@20 "$out"/week1-*)

# 2. The best settings on all orders, and everybody's list.
"${rearm[@]}" --mode refit --workdir "$best" --out "$out/final1"
lists "$out/final1" "$out/lists1.parquet"
check "$out/lists1.parquet" "$raw/orders.csv"

# 3. The nights of the week: the same model, without what was bought since.
lists "$out/final1" "$out/lists1b.parquet" --seen "$raw/orders_next.csv" "${columns[@]}"
check "$out/lists1b.parquet" "$raw"/orders*.csv

# 4. A week later: how did the lists fare? Then the same with the new orders, from where the run stood.
"${rearm[@]}" --mode review --lists "$out/lists1.parquet" --interactions "$raw/orders_next.csv" "${columns[@]}" \
  --min_recall 0.02 | tee "$out/review1.json"
prepare "$out/data2" "$raw/orders.csv" "$raw/orders_next.csv"
train "$out/data2" "$out/week2" --config.learning_rate="${best##*week1-}" --init_from "$best"
"${rearm[@]}" --mode refit --workdir "$out/week2" --out "$out/final2"
lists "$out/final2" "$out/lists2.parquet"
check "$out/lists2.parquet" "$raw"/orders*.csv

# 5. What is served: the new lists, unless too little of the old ones is in them.
if "${rearm[@]}" --mode review --lists "$out/lists2.parquet" --before "$out/lists1.parquet" \
  --interactions "$raw/orders_next.csv" "${columns[@]}" --min_overlap 0.2 >"$out/review2.json"; then
  cp "$out/lists2.parquet" "$out/.serve.parquet" && mv "$out/.serve.parquet" "$out/serve.parquet"
fi
echo "what is served: $out/serve.parquet"
