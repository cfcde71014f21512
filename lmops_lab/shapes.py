"""The shapes that cross module borders, named once.

Letters used in trailing shape comments: B rows of a batch, T tokens of a row, H query heads, K key/value heads,
G = H // K query heads that share one key/value head, D head width, C context tokens, V vocabulary, Q queries, L labels.
Values may have another width than keys (DeepSeek's latent attention); outputs then have that of the values.
The aliases are checked at run time under pytest (see tests/conftest.py) and cost nothing elsewhere.
"""

from jaxtyping import Float, Int, Int8
from torch import Tensor

Heads = Float[Tensor, "batch heads tokens dim"]
Outputs = Float[Tensor, "batch heads tokens value_dim"]
OwnKeys = Float[Tensor, "kv_batch kv_heads keys dim"]
OwnValues = Float[Tensor, "kv_batch kv_heads keys value_dim"]
LogSumExp = Float[Tensor, "batch heads tokens"]
OwnMask = Float[Tensor, "mask_batch 1 tokens own_tokens"]
ContextKeys = Float[Tensor, "kv_heads _ dim"]
ContextValues = Float[Tensor, "kv_heads _ value_dim"]
StoredKeys = ContextKeys | Int8[Tensor, "kv_heads _ dim"]
StoredValues = ContextValues | Int8[Tensor, "kv_heads _ value_dim"]
LabelScores = Float[Tensor, "queries labels"]
TokenRow = Int[Tensor, "batch tokens"]
