"""What an experiment borrows it gives back."""

import torch

from proximo.lab.policies import settings, training


def test_a_training_takes_one_thread_and_gives_back_what_there_were():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with training(settings("CartPole-v1", steps=1024)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
