"""Make the demo videos: python launch/make_demo_videos.py OUT"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.make_demo_videos import main

if __name__ == "__main__":
    run_cli(main)
