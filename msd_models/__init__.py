"""Models over tensors and text: the only home of torch, transformers, peft and vllm."""
