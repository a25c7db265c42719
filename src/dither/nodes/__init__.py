"""Stochastic nodes: ordinary modules, logits in, hard sample out.

To add one, write a file here and import its class below: `dither.NAME`, the estimators that can take it and the suite follow.
"""

from dither.nodes._bernoulli import Bernoulli as Bernoulli
from dither.nodes._categorical import Categorical as Categorical
from dither.nodes._noisy import NoisyReLU as NoisyReLU
from dither.nodes._noisy import NoisyTanh as NoisyTanh
from dither.nodes._pooling import NoisyMaxPool2d as NoisyMaxPool2d
from dither.nodes._pooling import StochasticPool2d as StochasticPool2d
from dither.nodes.batch_rows import Rows as Rows
from dither.nodes.batch_rows import present_rows as present_rows
from dither.nodes.batch_rows import refuse_within_rows as refuse_within_rows
from dither.nodes.batch_rows import rows as rows
from dither.nodes.checkpoint import in_region as in_region
from dither.nodes.checkpoint import noted as noted
from dither.nodes.checks import check_logits as check_logits
from dither.nodes.checks import is_concrete as is_concrete
from dither.nodes.closures import CostAlone as CostAlone
from dither.nodes.closures import cost_alone as cost_alone
from dither.nodes.determinism import deterministic as deterministic
from dither.nodes.eager import eagerly as eagerly
from dither.nodes.naming import as_module as as_module
from dither.nodes.naming import named_nodes as named_nodes
from dither.nodes.naming import plain_name as plain_name
from dither.nodes.node import CAPABILITIES as CAPABILITIES
from dither.nodes.node import Node as Node
from dither.nodes.node import Sampler as Sampler
from dither.nodes.takeover import ClosureError as ClosureError
from dither.nodes.takeover import inner_losses as inner_losses
from dither.nodes.takeover import running as running
from dither.nodes.takeover import taken_over as taken_over
