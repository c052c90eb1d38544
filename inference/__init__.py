"""Trained networks at work on photographs: files (predict), edges (alpha), panels (view),
test-time augmentation (tta), ONNX."""
