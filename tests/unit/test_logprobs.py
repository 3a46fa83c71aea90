"""The chunked head against plain log_softmax."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from archer.algos.logprobs import chunked_logprobs
from archer.algos.objective import NoiseFloor

T, H, V = 11, 4, 7


def problem(dtype: torch.dtype, bias: bool = False) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(T, H), (V, H)] + [(V,)] * bias
    floats = [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for s in shapes
    ]
    return *floats, torch.randint(V, (T,), generator=generator)


def plain(hidden, weight, targets, temperature, bias=None):
    log_p = (torch.nn.functional.linear(hidden, weight, bias).float() / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_those_of_whole_logits(chunk_tokens, temperature):
    hidden, weight, bias, targets = problem(torch.float32, bias=True)
    inputs = (hidden, weight, bias)
    upstream = torch.linspace(-1, 2, T)
    ours = chunked_logprobs(hidden, weight, targets, temperature, chunk_tokens, bias)[:2]
    expected = plain(hidden, weight, targets, temperature, bias)
    grads = torch.autograd.grad((ours[0] * upstream).sum() + (ours[1] * upstream**2).sum(), inputs)
    expected_grads = torch.autograd.grad(
        (expected[0] * upstream).sum() + (expected[1] * upstream**2).sum(), inputs
    )
    for a, b in zip((*ours, *grads), (*expected, *expected_grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("output", [0, 1], ids=["logprobs", "entropy"])
def test_each_output_passes_gradcheck(output):
    hidden, weight, bias, targets = problem(torch.float64, bias=True)
    torch.autograd.gradcheck(
        lambda h, w, b: chunked_logprobs(h, w, targets, 0.7, 3, b)[output], (hidden, weight, bias)
    )


FLOORS = [NoiseFloor(0.1), NoiseFloor(0.15, is_relative=False), NoiseFloor(0.9, is_relative=False)]


def whole_floor(hidden, weight, bias, targets, floor):
    """Policy and proxy over the vocabulary, and whether the targets are kept."""
    p = (torch.nn.functional.linear(hidden, weight, bias) / 0.7).softmax(-1)
    largest = p.amax(-1, keepdim=True)
    threshold = floor.probability * largest if floor.is_relative else floor.probability
    kept = (p >= threshold) | (p == largest)
    proxy = torch.where(kept, p, 0.0)
    return p, proxy / proxy.sum(-1, keepdim=True), kept.gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
@pytest.mark.parametrize("floor", FLOORS, ids=str)
def test_the_kept_mass_is_the_kl_from_a_constant_proxy_in_value_and_gradient(floor, chunk_tokens):
    hidden, weight, bias, targets = problem(torch.float64, bias=True)
    inputs = (hidden, weight, bias)
    upstream = torch.linspace(-1, 2, T, dtype=torch.float64)
    head = chunked_logprobs(hidden, weight, targets, 0.7, chunk_tokens, bias, floor)
    p, proxy, is_kept = whole_floor(*inputs, targets, floor)
    proxy = proxy.detach()
    kl = (torch.special.xlogy(proxy, proxy) - proxy * p.log()).sum(-1)
    torch.testing.assert_close(-head.log_kept_mass, kl)
    assert torch.equal(head.is_kept, is_kept)
    at_targets = proxy.log().gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(head.proxy_logprobs, at_targets)
    assert 0 < is_kept.sum() < T
    grads = torch.autograd.grad((-head.log_kept_mass * upstream).sum(), inputs)
    for a, b in zip(grads, torch.autograd.grad((kl * upstream).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("floor", FLOORS, ids=str)
def test_the_kept_mass_passes_gradcheck_beside_the_other_outputs(floor):
    hidden, weight, bias, targets = problem(torch.float64, bias=True)

    def outputs(h, w, b):
        head = chunked_logprobs(h, w, targets, 0.7, 3, b, floor)
        return head.logprobs, head.entropy, head.log_kept_mass

    torch.autograd.gradcheck(outputs, (hidden, weight, bias))


def test_where_nothing_reaches_the_floor_the_likeliest_token_is_kept():
    hidden, weight, targets = torch.zeros(1, 1), torch.randn(4, 1), torch.tensor([2])
    bias = torch.tensor([0.1, 0.3, 0.2, 0.0], requires_grad=True)
    floor = NoiseFloor(0.5, is_relative=False)
    head = chunked_logprobs(hidden, weight, targets, 1.0, bias=bias, floor=floor)
    assert head.is_kept.tolist() == [False]
    assert head.log_kept_mass.item() == pytest.approx(bias.log_softmax(0)[1].item())
    (0 * head.log_kept_mass).sum().backward()
    assert bias.grad.tolist() == [0.0] * 4


def test_without_a_floor_nothing_is_said_of_noise():
    hidden, weight, targets = problem(torch.float32)
    head = chunked_logprobs(hidden, weight, targets, 1.0)
    assert head.log_kept_mass is head.is_kept is head.proxy_logprobs is None


def test_bfloat16_hidden_states_get_a_float32_softmax():
    hidden, weight, targets = problem(torch.bfloat16)
    logprobs, entropy, *_ = chunked_logprobs(hidden, weight, targets, 1.0, 4)
    expected = plain(hidden, weight, targets, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close((logprobs, entropy), expected, rtol=1e-5, atol=1e-6)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_the_bfloat16_weight_gradient_does_not_stall_over_many_chunks():
    hidden = torch.ones(1000, H, dtype=torch.bfloat16)
    weight = torch.zeros(4, H, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.int64)
    chunked_logprobs(hidden, weight, targets, 1.0, chunk_tokens=1)[0].sum().backward()
    assert weight.grad[1, 0] == -250  # -0.25 for each token; a sum in bfloat16 stops at -64


def test_no_tensor_as_large_as_the_logits_is_ever_made():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return result

    num_tokens, hidden_size, vocabulary, chunk = 256, 4, 1000, 16
    hidden = torch.randn(num_tokens, hidden_size, requires_grad=True)
    weight = torch.randn(vocabulary, hidden_size, requires_grad=True)
    with Largest() as largest:
        targets = torch.zeros(num_tokens, dtype=torch.int64)
        head = chunked_logprobs(hidden, weight, targets, 1.0, chunk, floor=NoiseFloor(0.1))
        (head.logprobs.sum() + head.entropy.sum() + head.log_kept_mass.sum()).backward()
    assert largest.numel == chunk * vocabulary


def test_forward_holds_two_tensors_of_a_chunk_and_backward_three():
    class Alive(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.made, self.most = {}, 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape == (3, V):
                self.made[id(result)] = weakref.ref(result)
            self.most = max(self.most, sum(made() is not None for made in self.made.values()))
            return result

    hidden, weight, targets = problem(torch.float32)
    with Alive() as forward:
        head = chunked_logprobs(hidden, weight, targets, 1.0, chunk_tokens=3)
    with Alive() as backward:
        (head.logprobs + head.entropy).sum().backward()
    assert (forward.most, backward.most) == (2, 3)  # the third for the gradient of the entropy


def test_a_frozen_head_gets_no_gradient_buffer():
    hidden, weight, targets = problem(torch.float32)
    weight.requires_grad_(False)
    chunked_logprobs(hidden, weight, targets, 1.0)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_the_weight_may_be_freed_between_forward_and_backward():
    hidden, weight, targets = problem(torch.float32)
    weight = torch.nn.Parameter(weight.detach())
    expected = torch.autograd.grad(plain(hidden, weight, targets, 1.0)[0].sum(), (hidden, weight))
    logprobs, *_ = chunked_logprobs(hidden, weight, targets, 1.0, 4)
    assert any(
        saved is weight for saved in logprobs.grad_fn.saved_tensors
    )  # no copy is kept in its place
    gathered, weight.data = weight.data, torch.empty(0)  # what ZeRO-3 does after the forward pass
    weight.data = gathered
    torch.testing.assert_close(torch.autograd.grad(logprobs.sum(), (hidden, weight)), expected)


def test_no_tokens_still_backpropagate():
    hidden = torch.zeros(0, H, requires_grad=True)
    weight = torch.randn(V, H, requires_grad=True)
    logprobs, entropy, *_ = chunked_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64), 1.0)
    (logprobs.sum() + entropy.sum()).backward()
    assert torch.equal(weight.grad, torch.zeros(V, H))
