"""Make the demo videos: modist make-demo-videos OUT"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.make_demo_videos import main

if __name__ == "__main__":
    run_cli(main)
