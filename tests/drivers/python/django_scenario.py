"""Django's ORM through sidepool, with its defaults: migrations of the schema, queries, atomic blocks, locks, iterators, threads."""

import os
import threading
from urllib.parse import urlsplit

import django
from django.conf import settings

URL = urlsplit(os.environ["POSTGRES_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": URL.path[1:],
            "USER": URL.username,
            "PASSWORD": URL.password,
            "HOST": URL.hostname,
            "PORT": URL.port,
            # As Django's documentation asks for behind a transaction pooler: cursors do not outlive a transaction.
            "DISABLE_SERVER_SIDE_CURSORS": True,
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    TIME_ZONE="Europe/Zurich",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402 - only after the set-up
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402


class Account(models.Model):
    owner = models.CharField(max_length=50, unique=True)
    balance = models.IntegerField(default=0)
    facts = models.JSONField(default=dict)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "bank"


def work(worker, failures):
    try:
        for number in range(10):
            with transaction.atomic():
                account = Account.objects.select_for_update().get(owner=f"owner {(worker + number) % 10}")
                account.balance += 1
                account.save(update_fields=["balance"])
    except Exception as error:  # noqa: BLE001 - told below, whatever it is
        failures.append(f"{worker}: {error!r}")
    finally:
        connection.close()


def main():
    call_command("migrate", verbosity=0, interactive=False)
    with connection.schema_editor() as editor:
        editor.create_model(Account)
    Account.objects.bulk_create([Account(owner=f"owner {number}", facts={"rank": number}) for number in range(10)])
    assert Account.objects.filter(facts__rank__gte=5).count() == 5
    assert [account.owner for account in Account.objects.order_by("id").iterator(chunk_size=3)] == [f"owner {n}" for n in range(10)]

    try:
        with transaction.atomic():
            Account.objects.update(balance=99)
            with transaction.atomic():
                Account.objects.create(owner="owner 1")
    except IntegrityError:
        pass
    assert Account.objects.filter(balance=99).count() == 0

    user = User.objects.create_user("ada", password="engine")
    group = Group.objects.create(name="analysts")
    user.groups.add(group)
    assert User.objects.prefetch_related("groups").get().groups.all()[0].name == "analysts"
    assert user.check_password("engine")

    with connection.cursor() as cursor:
        # Django sets it when it connects: it has to be there on whatever server connection comes.
        cursor.execute("SHOW timezone")
        assert cursor.fetchone() == ("UTC",)

    failures = []
    threads = [threading.Thread(target=work, args=(worker, failures)) for worker in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert Account.objects.aggregate(sum=models.Sum("balance"))["sum"] == 200
    connection.close()
    print("Django", django.get_version(), "is content")


main()
