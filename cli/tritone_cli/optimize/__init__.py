"""`tritone optimize`: the search space, the search, trials on a real server, and the report.

NVIDIA's Model Analyzer cannot be used here: 1.58.0 pins optuna 3.6.1, where training wants 4 or newer; it starts a
`tritonserver` with options of its own, so without our launcher's `onnxruntime` backend for CPUs, and cannot load models
on our server, whose admin APIs require a token in a header that it does not send; and it writes its result to a
config.pbtxt of its own, which the next export would overwrite. The load generator is NVIDIA's perf_analyzer here, too.
"""
