"""Prints recommendations beside what the users liked before: python examples/show_lists.py DATA LISTS.jsonl"""

import json
import sys

import numpy as np


def main(data: str, lists: str) -> None:
    """Shows, for each line of `lists`, five films of the user's train split and the films recommended."""
    user_ids, names, train = (
        np.load(f"{data}/{stem}.npy", allow_pickle=False) for stem in ("user_ids", "item_names", "train")
    )
    with open(lists) as file:
        for line in file:
            found = json.loads(line)
            liked = train[train[:, 0] == np.flatnonzero(user_ids == found["user"])[0], 1]
            print(f"\nUser {found['user']} liked {len(liked)} films, such as {'; '.join(names[liked[-5:]])}.")
            for rank, item in enumerate(found["items"], start=1):
                print(f"{rank:4}. {item['name']}  ({item['score']:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
