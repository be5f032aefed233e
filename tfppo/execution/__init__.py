"""Devices, compilation and replicas: where and how the programs of a run execute."""
