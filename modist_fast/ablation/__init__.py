"""The paper's ablations: arms, their runs, paired statistics, one table. launch/ablate.py is the script."""
