"""The ``.onnx`` front end, on raw protobuf."""
