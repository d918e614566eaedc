"""The tensor operations of the StyleGAN2 family in plain PyTorch: differentiable, any device."""
