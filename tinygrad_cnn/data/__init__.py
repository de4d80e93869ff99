"""Data: readers, datasets, synthetic digits, transforms and the mini-batch loader."""

from __future__ import annotations

from .collate import default_collate as default_collate
from .datasets import MNIST as MNIST
from .datasets import Dataset as Dataset
from .datasets import FashionMNIST as FashionMNIST
from .datasets import ImageDataset as ImageDataset
from .datasets import Subset as Subset
from .datasets import TensorDataset as TensorDataset
from .datasets import random_split as random_split
from .idx import read_idx as read_idx
from .idx import write_idx as write_idx
from .loader import DataLoader as DataLoader
from .synthetic import SyntheticDigits as SyntheticDigits
from .transforms import Compose as Compose
from .transforms import Normalize as Normalize
from .transforms import ToTensor as ToTensor
