import torch

from pipeline.devices import describe_device, encoder_threads, processor_name, to_host

CPU = torch.device("cpu")


def test_tensors_of_a_cpu_are_given_as_they_are() -> None:
    tensors = {"image": torch.ones(2, 3), "mask": torch.zeros(1)}
    assert to_host(tensors)() is tensors


def test_a_cpus_record_names_its_model() -> None:
    facts = describe_device(CPU)
    assert facts["device"] == "cpu"
    assert facts["device_name"] == processor_name() != ""


def test_encoders_leave_a_cpu_to_the_rendering() -> None:
    assert encoder_threads(CPU) == 2
    assert 2 <= encoder_threads(torch.device("cuda")) <= 8
