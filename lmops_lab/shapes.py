"""The shapes that cross module borders, named once.

Letters used in trailing shape comments: B rows of a batch, T tokens of a row, H query heads, K key/value heads,
G = H // K query heads that share one key/value head, D head width, C context tokens, V vocabulary, Q queries, L labels.
The aliases are checked at run time under pytest (see tests/conftest.py) and cost nothing elsewhere.
"""

from jaxtyping import Float, Int, Int8
from torch import Tensor

Heads = Float[Tensor, "batch heads tokens dim"]
KeyValues = Float[Tensor, "kv_batch kv_heads keys dim"]
LogSumExp = Float[Tensor, "batch heads tokens"]
OwnMask = Float[Tensor, "mask_batch 1 tokens own_tokens"]
ContextKeys = Float[Tensor, "kv_heads _ dim"]
StoredKeys = ContextKeys | Int8[Tensor, "kv_heads _ dim"]
LabelScores = Float[Tensor, "queries labels"]
TokenRow = Int[Tensor, "batch tokens"]
