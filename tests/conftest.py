"""Options of the whole test run."""


def pytest_addoption(parser):
    parser.addoption("--refresh", action="store_true", help="rewrite the golden files")
