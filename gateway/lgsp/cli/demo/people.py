"""Synthetic citizens: nobody in here exists. Names are drawn from common Vietnamese name parts, numbers follow the form
of Decree 137/2015/NĐ-CP (province, century and sex, year, serial) with serials that the demo counts up. Deterministic."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_FAMILY: Final = [
    "Nguyễn",
    "Trần",
    "Lê",
    "Phạm",
    "Hoàng",
    "Huỳnh",
    "Phan",
    "Vũ",
    "Võ",
    "Đặng",
    "Bùi",
    "Đỗ",
    "Hồ",
    "Ngô",
    "Dương",
    "Lý",
    "Đoàn",
    "Trịnh",
    "Đinh",
    "Mai",
]
_MIDDLE: Final = [
    "Văn",
    "Thị",
    "Đức",
    "Minh",
    "Ngọc",
    "Quang",
    "Thu",
    "Hữu",
    "Thanh",
    "Xuân",
    "Kim",
    "Gia",
    "Bảo",
    "Hải",
    "Anh",
    "Khánh",
    "Phương",
    "Tuấn",
    "Mỹ",
    "Diệu",
]
_GIVEN: Final = [
    "An",
    "Bình",
    "Châu",
    "Dũng",
    "Đạt",
    "Giang",
    "Hà",
    "Hạnh",
    "Hiếu",
    "Hoa",
    "Hùng",
    "Hương",
    "Khoa",
    "Lan",
    "Linh",
    "Long",
    "Mai",
    "Nam",
    "Nga",
    "Nhung",
    "Oanh",
    "Phong",
    "Phúc",
    "Quân",
    "Quỳnh",
    "Sơn",
    "Tâm",
    "Thảo",
    "Thắng",
    "Thủy",
    "Toàn",
    "Trang",
    "Trung",
    "Tú",
    "Uyên",
    "Vân",
    "Việt",
    "Vinh",
    "Yến",
    "Ý",
]
_OCCUPATIONS: Final = ("giáo viên", "bác sĩ", "nông dân", "kỹ sư", "công nhân", "sinh viên", "lái xe", "kế toán", None)
_OLDEST: Final = datetime.date(1940, 1, 1)
_DAYS: Final = (datetime.date(2024, 12, 31) - _OLDEST).days
_HANOI: Final = "001"


class Citizen(NamedTuple):
    """A row of the table `citizen`."""

    id: str
    full_name: str
    date_of_birth: datetime.date
    gender: str
    ward_code: int
    occupation: str | None


def citizens(wards: Sequence[int], count: int, seed: int = 2025) -> Iterator[Citizen]:
    """`count` citizens spread evenly over the wards, always the same for the same arguments."""
    chance = random.Random(seed)  # noqa: S311 # not a secret: the same people at every start
    for serial in range(count):
        born = _OLDEST + datetime.timedelta(days=chance.randrange(_DAYS))
        female = chance.random() < 0.5
        sex = (0 if born.year < 2000 else 2) + female
        yield Citizen(
            f"{_HANOI}{sex}{born.year % 100:02d}{serial % 1_000_000:06d}",
            f"{chance.choice(_FAMILY)} {chance.choice(_MIDDLE)} {chance.choice(_GIVEN)}",
            born,
            "nữ" if female else "nam",
            wards[serial % len(wards)],
            chance.choice(_OCCUPATIONS),
        )
