"""Place an order and its task in one transaction, wait for the bill, and see a crash from outside."""

from __future__ import annotations

from decimal import Decimal

import shop

from pq_core import TaskFailed


def main() -> None:
    """Place an order, and let another one fail."""
    with shop.pq.session() as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS orders"
            " (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total numeric, packed boolean DEFAULT false)"
        )
    with shop.pq.session() as connection:  # the order and its task: both, or neither
        row = connection.execute("INSERT INTO orders DEFAULT VALUES RETURNING id").fetchone()
        assert row is not None
        order: int = row[0]
        items = [shop.Item("tea", Decimal("4.20"), count=2), shop.Item("cup", Decimal("9.10"))]
        billing = shop.pq.using(connection).enqueue(shop.bill.call(order, items))
    print(f"order {order}: {shop.pq.wait(billing, timeout=30)}")

    packing = shop.pq.list_tasks(name="shop.pack")[0]
    print(shop.pq.wait(packing.id, timeout=30))
    print("attempts:", ", ".join(attempt.outcome for attempt in shop.pq.attempts(packing.id)))

    try:
        shop.pq.wait(shop.crash.enqueue(), timeout=30)
    except TaskFailed as error:
        print(f"crash: {error.outcome}, {(error.error or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
