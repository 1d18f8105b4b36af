"""The inference form of the network as CPUs like it: the same function, other loops.

What is computed is in `encoder.py` and `generator.py`; here is how, where memory traffic costs as much as arithmetic:

* Channels of a pixel lie side by side ("channels-last"), and bias and activation run inside the convolution.
* Large maps go through one picture at a time, so that they stay in the cache; small ones together, so that the
  weights are read once. One picture's style and demodulation are factors on its weights where those are smaller.
* A transposed convolution is four convolutions, one for each phase of the doubled grid, or one matrix product.
* Stride-1 convolutions with many channels take Winograd's way in float32.
* Matrices are multiplied by the faster library, which depends on the processor's maker.
* Warping is a weighted sum of four rows of a table, with the mask in the weights. At the last level, where only the RGB
  head looks at what was warped, its convolution goes first, and three colours are warped.
"""

from .network import CPUNetwork

__all__ = ["CPUNetwork"]
