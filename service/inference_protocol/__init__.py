"""The Open Inference Protocol, version 2 (KServe, Triton, OpenVINO Model Server), as far as REST and gRPC share it.

Images go in as a tensor `image`: datatype BYTES and shape [N], each element an encoded image, or datatype UINT8 and
shape [N, H, W, 3], pixels in RGB. Every output of the model is an output tensor of its name, FP32 and shape [N, D];
`embedding` stands for the default output.
"""
