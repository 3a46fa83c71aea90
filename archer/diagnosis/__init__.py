"""The checks of archer.doctor: this machine, the hub, Ray and the sandbox."""
