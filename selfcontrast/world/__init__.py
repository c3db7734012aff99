"""The pocket world: instruction data in plain English whose answers a program can grade."""
