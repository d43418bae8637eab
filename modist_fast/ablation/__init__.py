"""The paper's ablations: arms, their runs, paired statistics, one table. `modist ablate` runs them."""
