"""SQLAlchemy through sidepool, with its defaults: the ORM over psycopg and over asyncpg, reflection, savepoints, a pool of its own, threads."""

import asyncio
import os
import threading

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

URL = os.environ["POSTGRES_URL"]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100), unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int] = mapped_column(default=0)
    tags: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.String), default=list)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def fill(engine):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number in range(20):
            books = [Book(title=f"book {number}.{index}", pages=index * 10, tags=["a", str(index)]) for index in range(5)]
            session.add(Author(name=f"author {number}", books=books))
        session.commit()


def orm(engine):
    with Session(engine) as session:
        authors = session.scalars(sa.select(Author).options(selectinload(Author.books)).order_by(Author.id)).all()
        assert len(authors) == 20 and all(len(author.books) == 5 for author in authors)
        assert authors[3].books[2].tags == ["a", "2"]
        # A savepoint that fails takes only its own work along.
        try:
            with session.begin_nested():
                session.add(Author(name="author 1"))
        except sa.exc.IntegrityError:
            pass
        session.add(Author(name="late"))
        session.commit()
        session.delete(session.scalars(sa.select(Author).where(Author.name == "late")).one())
        session.commit()
        # Rows in pieces, from a cursor on the server.
        rows = session.execute(sa.select(Book.id).order_by(Book.id).execution_options(yield_per=7))
        assert len(list(rows)) == 100
        try:
            session.execute(sa.text("SELECT 1 / 0"))
            raise AssertionError("a division by zero went well")
        except sa.exc.DataError:
            session.rollback()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 100


def reflection(engine):
    inspector = sa.inspect(engine)
    assert {"author", "book"} <= set(inspector.get_table_names())
    assert inspector.get_foreign_keys("book")[0]["referred_table"] == "author"
    reflected = sa.Table("book", sa.MetaData(), autoload_with=engine)
    assert isinstance(reflected.c.tags.type, sa.ARRAY)


def isolation(engine):
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert connection.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW transaction_isolation")) == "read committed"


def crowd(engine):
    failures = []

    def work(worker):
        try:
            for round_ in range(10):
                with Session(engine) as session, session.begin():
                    book = session.get(Book, (worker * 10 + round_) % 100 + 1, with_for_update=True)
                    book.pages += 1
        except Exception as error:  # noqa: BLE001 - told below, whatever it is
            failures.append(f"{worker}: {error!r}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.sum(Book.pages))) == 20 * (0 + 10 + 20 + 30 + 40) + 200


async def over_asyncpg():
    engine = create_async_engine(URL.replace("postgres://", "postgresql+asyncpg://"), pool_size=10)

    async def read(number):
        async with engine.connect() as connection:
            query = sa.select(Author.name).where(Author.id == number % 20 + 1)
            return (await connection.execute(query)).scalar_one()

    names = await asyncio.gather(*(read(number) for number in range(200)))
    assert len(set(names)) == 20
    async with engine.begin() as connection:
        await connection.execute(sa.update(Book).values(pages=1))
    async with engine.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.sum(Book.pages))) == 100
    # The table changes under statements that are prepared already.
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE author ADD COLUMN born int"))
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(Author.id, Author.name))
        assert len(rows.all()) == 20
    await engine.dispose()


def main():
    engine = sa.create_engine(URL.replace("postgres://", "postgresql+psycopg://"), pool_size=10, max_overflow=10)
    fill(engine)
    orm(engine)
    reflection(engine)
    isolation(engine)
    crowd(engine)
    engine.dispose()
    asyncio.run(over_asyncpg())
    print("SQLAlchemy", sa.__version__, "is content")


main()
