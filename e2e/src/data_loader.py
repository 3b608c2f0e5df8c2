"""A PyTorch DataLoader with workers over the files below a folder, in random order, twice.

data_loader.py TREE: prints `SHA256 PATH` of each file of the second epoch, as the workers read it.
"""

import hashlib
import os
import sys

import torch
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    def __init__(self, tree):
        found = (os.path.join(at, name) for at, _, names in os.walk(tree) for name in names)
        self.tree, self.paths = tree, sorted(found)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with open(self.paths[index], "rb") as file:
            return index, torch.frombuffer(bytearray(file.read() or b"\0"), dtype=torch.uint8)


def main():
    files = Files(sys.argv[1])
    loader = DataLoader(files, batch_size=4, shuffle=True, num_workers=4, persistent_workers=True, collate_fn=list)
    for epoch in range(2):
        for batch in loader:
            for index, content in batch if epoch == 1 else []:
                path = files.paths[index]
                # A tensor cannot be made of nothing.
                data = content.numpy().tobytes() if os.path.getsize(path) else b""
                print(hashlib.sha256(data).hexdigest(), os.path.relpath(path, files.tree))


if __name__ == "__main__":
    main()
