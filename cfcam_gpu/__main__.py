"""`python -m cfcam_gpu` is the command `cfcam`."""

from cfcam_gpu.cli import main

if __name__ == "__main__":
    main()
