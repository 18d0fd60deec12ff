"""Place an order that is kept and one that is rolled back, and wait for their tasks."""

from __future__ import annotations

from decimal import Decimal

import shop
from sqlalchemy import select
from sqlalchemy.orm import Session


def main() -> None:
    """Place the orders and print what becomes of them."""
    shop.Base.metadata.create_all(shop.engine)

    with Session(shop.engine) as session:
        shop.place_order(session, "cup", Decimal("9.10"))
        session.rollback()
        billing = shop.place_order(session, "tea", Decimal("4.20"))
        session.commit()

    print("billed:", shop.pq.wait(billing, timeout=30))
    packing = shop.pq.list_tasks(name="shop.pack")[0]
    print(shop.pq.wait(packing.id, timeout=30))

    with Session(shop.engine) as session:
        print("orders:", [(order.item, order.state) for order in session.scalars(select(shop.Order))])
    print("tasks:", len(shop.pq.list_tasks()))


if __name__ == "__main__":
    main()
