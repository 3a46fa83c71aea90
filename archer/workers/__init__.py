"""What runs inside Ray actors: rollout (vLLM), policy and reference (DeepSpeed), reward."""
