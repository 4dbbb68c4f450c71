import torch

from utils.pretraining.muon import Muon, orthogonalise


def test_the_step_keeps_singular_vectors_and_levels_singular_values():
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 30), (30, 8)):
        matrix = torch.randn(*shape, generator=generator)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        rotated = left.T @ orthogonalise(matrix) @ right.T  # diagonal, if the singular vectors are the same
        values = rotated.diagonal()
        torch.testing.assert_close(rotated, torch.diag(values), atol=1e-4, rtol=0)
        assert 0.5 < values.min() < values.max() < 1.3


def test_a_step_is_nesterovs_momentum_orthogonalised_and_scaled_by_the_aspect():
    generator = torch.Generator().manual_seed(1)
    kernel = torch.nn.Parameter(torch.zeros(12, 2, 1, 1))
    untouched = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([kernel, untouched], lr=0.5, momentum=0.9)
    momentum, expected = torch.zeros(12, 2), torch.zeros(12, 2)
    for _ in range(2):
        gradient = torch.randn(12, 2, 1, 1, generator=generator)
        kernel.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + gradient.flatten(1)
        expected -= 0.5 * 6**0.5 * orthogonalise(gradient.flatten(1) + 0.9 * momentum)
    torch.testing.assert_close(kernel.detach().flatten(1), expected)
    assert torch.equal(untouched.detach(), torch.ones(2, 2))


def test_its_state_can_be_saved_and_taken_over():
    def train(steps, state=None, start=None):
        kernel = torch.nn.Parameter(torch.eye(3) if start is None else start)
        optimizer = Muon([kernel], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            kernel.grad = kernel.detach().cumsum(0)
            optimizer.step()
        return kernel.detach().clone(), optimizer.state_dict()

    whole, _ = train(4)
    half, state = train(2)
    assert torch.equal(train(2, state, half)[0], whole)
