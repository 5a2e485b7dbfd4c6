"""Every setting, with one line on what it means. The files in configs/ start from this and change a few.

`tuple` fields are overridden as `--config.data.modalities='("image","audio")'`; every other field as
`--config.model.rank=7`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default settings: protocol strict, a folder of data that `data.root` must name."""
    return ConfigDict(
        {
            # "strict": no leak. "reference": the published system with its leaks and quirks (see docs/fidelity.md).
            "protocol": "strict",
            "seed": 0,  # of everything that is drawn: parameters, order, negatives, dropout, padding
            "num_epochs": 1000,  # upper limit; early stopping usually ends the run before it
            "batch_size": 2048,  # train interactions in a step, over all devices
            "eval_every": 1,  # epochs between two evaluations on validation
            "patience": 20,  # stop after more than this many evaluations without a gain
            "learning_rate": 5e-5,  # of AdamW; the peak where there is a schedule
            "weight_decay": 5e-4,  # AdamW, decoupled
            "schedule": {
                "name": "constant",  # "constant" or "cosine"
                "warmup_epochs": 0,  # linear warm-up from 0
                "decay_epochs": 0,  # cosine: epochs until the learning rate is 0
            },
            "gradient_clip_norm": 0.0,  # global norm; 0 switches clipping off
            # On several devices: "data" shares out the batch; "row" also cuts node tables and graphs over the devices.
            "parallel": "data",
            "compute_dtype": "float32",  # of the dense layers: "float32" or "bfloat16" (sums stay float32)
            "data": {
                "source": "folder",  # "folder" or "synthetic"
                "root": "",  # folder of the data, in one of the layouts of rearm_jax/data/formats.py
                "name": "",  # "baby", "sports" or "clothing": the data set to download where root is missing
                "download": True,  # False: a missing root is an error
                "modalities": ("image", "text"),  # in order; the first is the paper's visual one
                "num_users": 0,  # 0: as many as user_ids names, or else the largest user id of the splits + 1
                "synthetic": {  # used when source is "synthetic"; see rearm_jax/data/synthetic.py
                    "num_users": 1000,
                    "num_items": 600,
                    "interactions_per_user": 12,
                    "feature_width": 32,
                    "modalities": ("image", "text"),  # planted; data.modalities says which of them are seen
                    "seed": 0,
                },
            },
            "graph": {
                "user_knn_k": 40,  # neighbours of a user in the co-occurrence and interest graphs
                "item_knn_k": 10,  # neighbours of an item in the co-occurrence and semantic graphs
                "user_cooccurrence_weight": 0.4,  # the rest is the weight of the interest graph
                "item_cooccurrence_weight": 0.2,  # the rest is the weight of the semantic graph
                "user_modality_weights": (),  # of each modality in the user interest graph; (): equal shares
                "item_modality_weights": (),  # of each modality in the item semantic graph; (): equal shares
                "knn": "auto",  # "exact", "approx" (needs faiss), or "auto": approx for more than 100,000 nodes
                "cache_dir": ".cache/graphs",  # built graphs are kept here; "" switches the cache off
            },
            "model": {
                "name": "rearm",  # "rearm" or "lightgcn"
                "embedding_dim": 64,  # of the ID embeddings and of each modality
                "rank": 3,  # of the meta-network's transformations
                "num_layers": 4,  # of the user-item graph
                "num_user_layers": 1,  # of the user-user graph
                "num_item_layers": 1,  # of the item-item graph
                "self_dropout": 0.4,  # on the weights of self-attention; 1 zeroes it in training
                "cross_dropout": 0.6,  # on the weights of cross-attention
                "train_meta_projection": False,  # the published system keeps it frozen at random values
            },
            "loss": {
                "contrastive_weight": 5e-6,  # of the contrastive loss between modalities
                "temperature": 0.6,  # of the contrastive loss
                "orthogonal_weight": 5e-5,  # of the constraint that keeps modalities apart
                "l2_weight": 0.0,  # half the squared norm of the batch's ID embeddings, mean over the batch
            },
            "evaluation": {
                "ks": (5, 10, 20, 50),  # cut-offs of the ranking metrics
                "metric": "recall@20",  # validation metric that picks the best checkpoint
                "block_size": 1024,  # users ranked at a time on one device
            },
            "checkpoints": {
                # Of the best step, once it is not among the latest two: "whole", or "params" (a third of the disk, but
                # training cannot go back to it).
                "keep": "whole",
            },
            "log": {
                "progress": True,  # progress bar (lines when stderr is not a terminal)
                "tensorboard": True,  # TensorBoard events in the run folder
            },
        }
    )
