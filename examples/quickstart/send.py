"""Triggers the tasks beside it and prints what became of them. A server and a worker have to run:

headrace dev tasks.py
"""

from __future__ import annotations

from tasks import Order, bill, remind

from headrace import Client


def main() -> None:
    """One run, then a batch, then a run that needs a second attempt."""
    with Client() as client:
        invoice = client.trigger(bill, Order(1, [9.5, 3.0])).result(timeout=30)
        print(f"invoice {invoice.number}: {invoice.total}")
        batch = client.batch_trigger(bill, (Order(number, [1.0] * number) for number in range(100)))
        print(f"100 invoices: {sum(outcome.unwrap().total for outcome in batch.results())}")
        print(client.trigger(remind, 1).result(timeout=30))


if __name__ == "__main__":
    main()
