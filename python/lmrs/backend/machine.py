"""What the native kernels use of this machine."""

from lmrs._rs import instruction_set, threads, version

__all__ = ["instruction_set", "threads", "version"]
