"""One OpRecord for every differentiable public op, by family; `test_records.py` checks all of them alike."""
