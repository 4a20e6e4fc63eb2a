"""Every paper's claim at small scale: `make claims` trains, judges and writes docs/claims.md."""
