"""How every Python server of bench_serving.py opens the model, in whichever environment it runs."""

import onnxruntime


def session(model: bytes) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a model that runs on the calling thread, and the name of its first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return made, made.get_outputs()[0].name
