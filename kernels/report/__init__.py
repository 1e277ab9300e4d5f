"""What the compiler says of every kernel, without a GPU: `python -m sdtc.kernels.report`.

In: the kernels, configured for a preset's shapes. Out: a table, `kernels.csv` and `kernels.png`.

For each kernel, architecture and tactic it tells registers and spills, shared memory, vector loads and stores,
tensor-core instructions, resident blocks and occupancy; the bytes that must be moved, and those that unfused operators
move; and a lower bound of the time on GPUs in use. Bounds are not measurements: `benchmarks/kernels.py` measures.

`cases` lists the kernels, `data_sheets` holds the peak rates of GPUs, `analysis` combines them with the
compiled code, `table` and `picture` write the results, `cli` is the command.
"""
