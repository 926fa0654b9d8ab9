"""ONNX Runtime, which would tell its maker that it is used, from a thread of its own: here it does not.

It reads its wish when it is loaded, so whoever needs it imports it from here.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - read by the library when it is loaded

import onnxruntime as onnxruntime
