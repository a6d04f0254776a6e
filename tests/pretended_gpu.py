"""A GPU that is not there: tensors that say `cuda:0` and hold their numbers on the CPU.

What no machine at hand can run is run here: an operation on tensors of two devices fails as it
would on a GPU, so do NumPy and the CPU's kernels on them, and the numbers can be compared with the
CPU's. What this does not show: speed, memory, kernels of the GPU, and waiting for it.

C++ takes the tensors for such of the `meta` device, because a PyTorch without CUDA has no `cuda`
that autograd could ask; Python is told `cuda:0`.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
ACROSS = {"aten::_to_copy", "aten::copy_"}
"""Operations that may take tensors of both devices."""
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose indices may be on the CPU."""
READ = {"aten::_local_scalar_dense", "aten::equal"}
"""Operations that give Python a number."""


class Pretended(torch.Tensor):
    """A tensor of the pretended GPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held):
        self.held = held

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return on_its_device(operation, args, kwargs or {})

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def tolist(self):
        return self.held.tolist()

    def refuse(self, *args, **kwargs):
        raise TypeError("memory of the GPU was asked for as if it were the CPU's")

    numpy = __array__ = data_ptr = refuse

    def __repr__(self):
        return f"Pretended({self.held})"


def _there(device):
    return isinstance(device, (str, torch.device)) and torch.device(device).type in ("cuda", "meta")


def on_its_device(operation, args, kwargs):
    """What the operation gives, on the device where its tensors are or where it is told to be."""
    name = operation._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Pretended)]
    # A number without dimensions may come from anywhere.
    here = [x for x in tensors if not isinstance(x, Pretended) and x.dim()]
    if there and here and name not in ACROSS | INDEXED:
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"{name}: expected all tensors on cuda:0, found on cpu: {shapes}")
    told = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
    stays = _there(told[-1]) if told else bool(there)
    if name == "aten::copy_":
        stays = isinstance(args[0], Pretended)

    def own(x):
        if isinstance(x, Pretended):
            return x.held
        return torch.device("cpu") if isinstance(x, torch.device) else x

    plain_args, plain_kwargs = tree_map(own, (args, kwargs))
    found = operation(*plain_args, **plain_kwargs)
    # What an operation changes in place it gives back: that is the tensor that was given.
    known = {id(x.held): x for x in there}

    def told_of(x):
        if not isinstance(x, torch.Tensor) or name in READ:
            return x
        if id(x) in known:
            return known[id(x)]
        return Pretended(x) if stays else x

    return tree_map(told_of, found)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return on_its_device(operation, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls that look for the device themselves before any operation is asked for."""

    def __torch_function__(self, call, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if call in (torch.tensor, torch.as_tensor) and _there(kwargs.get("device")):
            made = call(*args, **{k: v for k, v in kwargs.items() if k != "device"})
            return made.to(GPU)
        if call in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            own, at, *rest = args
            parts = at if isinstance(at, tuple) else (at,)
            listed = [torch.tensor(x) if isinstance(x, list) else x for x in parts]
            args = (own, tuple(listed) if isinstance(at, tuple) else listed[0], *rest)
        return call(*args, **kwargs)


@contextmanager
def pretended_gpu():
    """Inside this block there is a GPU."""
    nothing = {
        "_lazy_init": None,
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    with ExitStack() as stack:
        for name, value in nothing.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, v=value: v))
        told = mock.Mock(total_memory=8 << 30)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", lambda _: told))
        # A module's weights are replaced when it moves: their class tells where they are.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        yield


def moved(model):
    """A model of transformers on the pretended GPU."""
    model = model.to(GPU)
    model.tie_weights()
    return model
